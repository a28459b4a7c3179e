"""A Kommo account on loopback, faithful enough that real clients cannot tell. Imports nothing of ours."""
