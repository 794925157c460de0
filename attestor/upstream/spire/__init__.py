"""SPIRE as an identity upstream, through the Delegated Identity API of the local agent."""
