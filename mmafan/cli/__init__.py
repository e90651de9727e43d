"""The command ``mmafan``: finds taps, writes configs, checks, exports, starts tools. No other part imports it."""
