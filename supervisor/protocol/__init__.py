"""The two wire protocols, without I/O: messages, output, replay, close codes, flow control."""
