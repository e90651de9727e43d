"""The laboratory: what the command line tools do, from one training to studies of many; the core never imports it."""
