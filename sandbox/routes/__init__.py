"""The API's areas, one module each; every module lists its routes in `ROUTES`."""
