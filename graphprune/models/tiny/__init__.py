"""The shipped tiny model: weights, tokenizer, two texts, and `train.py`, which made them."""
