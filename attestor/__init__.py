"""The attestor: who is calling, and is it still what was approved?"""
