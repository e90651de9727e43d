"""The command ``mmafan``: finds taps, writes configs, checks, exports, and starts the tools. The core never imports it."""
