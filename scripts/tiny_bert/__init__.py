"""What `scripts/train_tiny_bert.py` and `scripts/make_sample_pairs.py` are made of."""
