"""How a sweep runs: what goes into one forward pass (`plan`), that pass (`forward`), the plain loop that it
must equal (`plain`), whether a model allows it (`capability`), how many rows fit (`memory`)."""
