"""The paper's experiments at the size of two CPU cores: tables of runs as data, a runner that may be killed, a report."""
