"""The reliability of CTRM: its confidences in random candidates on a real model, compared with outcomes."""
