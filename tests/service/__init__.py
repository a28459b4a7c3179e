"""A whole installation for real, each part a process of its own: `python -m tests.service`.

What it runs are the files of `deployments/setups/one-server`: the ExecStart lines of the units and the examples of the
settings, with other paths and ports.
"""
