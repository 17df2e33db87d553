"""Readers and writers made from the pages of `spec/` alone, to show that the pages say enough.

They import nothing of this project. Where one of them and the project disagree, a page is wrong or has a gap.
"""
