"""The protocols spoken on gRPC sockets: protos as published, and the code generated from them.

Owns: ``protos`` (with their licences) and ``gen`` (written by ``scripts/generate_wire.py``, never by hand).
Does not own: what the messages mean to Hopseal; each client and server translates at its own edge.
"""
