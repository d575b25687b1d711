"""Conversations: threads, their messages, and the runs that answer them."""
