"""Logs from files."""

from irecgan_ext.data.sessions import LogError, SessionLog, load_log, read_sessions, write_sessions

__all__ = ["LogError", "SessionLog", "load_log", "read_sessions", "write_sessions"]
