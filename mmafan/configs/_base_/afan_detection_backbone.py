# Stands for the config of this name, see mmafan/configs/__init__.py; written by `python -m mmafan.configs`.
globals().update(__import__('mmafan.configs', fromlist=['load']).load(__file__))
