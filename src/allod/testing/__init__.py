"""What extension authors, and we, test with: a real server, a scripted engine, the reference pages."""
