"""What Linux will do with a packet, step by step and both ways: one module per kernel decision, and the walk."""

from nettrace.predict.walk import predict

__all__ = ["predict"]
