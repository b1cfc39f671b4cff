"""Facts and phrases that SmolLM2 continues as given (no BOS): what tests and benchmarks of the real model run on."""

FACTS = [
    ("The capital of Canada is", " Ottawa"),
    ("The capital of France is", " Paris"),
    ("To treat my toothache, I should see a", " dentist"),
    ("The Eiffel Tower is located in the city of", " Paris"),
    ("The Colosseum is located in the city of", " Rome"),
    ("Ottawa is the capital of", " Canada"),
    ("The capital of Japan is", " Tokyo"),
    ("The capital of Italy is", " Rome"),
    ("The official language of Brazil is", " Portuguese"),
    ("The currency of Japan is the", " Japanese"),
    ("The Great Wall is located in", " China"),
    ("Albert Einstein was a famous", " physicist"),
    ("The chemical symbol for gold is", " Au"),
    ("The largest planet in the solar system is", " Jupiter"),
    ("The capital of Germany is", " Berlin"),
    ("Romeo and Juliet was written by William", " Shakespeare"),
    ("The Statue of Liberty is in New", " York"),
    ("Carl likes those", " books"),
    ("The keys to the cabinet", " are"),
    ("The opposite of hot is", " cold"),
]
