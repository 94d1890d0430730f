"""The command line: parse, call the public verb, print."""
