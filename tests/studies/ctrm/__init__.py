"""How far CTRM can be believed: random candidates on a real model, what it says of them, and what they come to."""
