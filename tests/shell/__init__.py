"""Tests of the restricted shell, by keystrokes on a real PTY."""
