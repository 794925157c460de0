"""The gRPC sockets of the attestor.

Owns: serving the SPIFFE Workload API and the SPIFFE Broker API, and the bounds on who may use up what.
Does not own: verdicts (``attestor.attestation``) or issuing (``attestor.upstream``).
"""
