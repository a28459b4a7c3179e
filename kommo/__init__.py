"""Kommo's API as plain Python: HTTP in, typed values out. Knows neither Prefect nor SQL."""
