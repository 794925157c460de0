"""The broker: may this call happen, and can we prove it later?"""
