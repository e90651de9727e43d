"""What is exported loads where mmafan is absent, and predicts the same."""
from __future__ import annotations

import hashlib
import subprocess
import sys
import textwrap

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmafan.cli.main import main

pytest.importorskip('mmpretrain.models', reason='the exported model is one of mmpretrain')

CONFIG = '''
_base_ = 'mmafan::mmpretrain/resnet18_afan_cifar10.py'
default_hooks = dict(checkpoint=dict(interval=3))
model = dict(backbone=dict(base_channels=8, stem_channels=8, norm_cfg={norm}),
             head=dict(num_classes=10, in_channels=64, topk=(1, )))
'''
WITHOUT = '''
    import sys
    sys.modules['mmafan'] = None  # what is not installed cannot be imported
    import torch
    from mmpretrain import get_model
    config, checkpoint, images = sys.argv[1:]
    model = get_model(config, pretrained=checkpoint).eval()
    with torch.no_grad():
        torch.save(model(torch.load(images), mode='tensor'), images)
    print(type(model).__name__, model.dataset_meta if hasattr(model, 'dataset_meta') else '')
'''


def trained(folder, norm="dict(type='BN')"):
    """Write a config and a checkpoint as a training leaves them; return model and paths."""
    config, checkpoint = folder / 'mine_afan.py', folder / 'epoch_1.pth'
    config.write_text(CONFIG.format(norm=norm))
    cfg = Config.fromfile(str(config))
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    meta = dict(epoch=1, iter=5, cfg='type=mmafan.AFANImageClassifier', dataset_meta=dict(classes=['a'] * 10))
    torch.save(dict(state_dict=model.state_dict(), optimizer=optimizer.state_dict(), message_hub=dict(log_scalars={}),
                    meta=meta), checkpoint)
    return model, config, checkpoint


@pytest.mark.parametrize('norm', ["dict(type='BN')", "dict(type='mmafan.AFANNorm', policy='frozen')"],
                         ids=['BN', 'AFANNorm'])
def test_exported_model_needs_no_mmafan(norm, tmp_path, capsys):
    model, config, checkpoint = trained(tmp_path, norm)
    images = torch.rand(2, 3, 32, 32)
    torch.save(images, tmp_path / 'images.pt')
    with torch.no_grad():
        expected = model(images, mode='tensor')
    main(['export', str(config), str(checkpoint), '-o', str(tmp_path / 'out')])
    written, weights = capsys.readouterr().out.split()[-2:]
    assert written == str(tmp_path / 'out' / 'mine.py')
    with open(weights, 'rb') as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    assert weights == str(tmp_path / 'out' / f'mine-{digest[:8]}.pth')
    saved = torch.load(weights, weights_only=True)
    assert set(saved) == {'meta', 'state_dict'} and saved['meta']['dataset_meta'] == dict(classes=['a'] * 10)
    text = (tmp_path / 'out' / 'mine.py').read_text().lower()
    assert 'afan' not in text and 'cifar10' in text
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(WITHOUT), written, weights,
                           str(tmp_path / 'images.pt')],
                          universal_newlines=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr[-800:]
    assert done.stdout.split()[-2:] and 'ImageClassifier' in done.stdout and 'AFAN' not in done.stdout
    assert torch.equal(torch.load(tmp_path / 'images.pt'), expected)


def error_of(capsys, *argv):
    with pytest.raises(SystemExit) as error:
        main(list(map(str, argv)))
    assert error.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


def test_wrong_checkpoints_end_in_a_sentence(tmp_path, capsys):
    _, config, checkpoint = trained(tmp_path)
    assert 'there is no checkpoint' in error_of(capsys, 'export', config, tmp_path / 'none.pth', '-o', tmp_path / 'o')
    saved = torch.load(checkpoint, weights_only=False)
    saved['state_dict'].pop('head.fc.bias')
    torch.save(saved, checkpoint)
    assert "it lacks ['head.fc.bias']" in error_of(capsys, 'export', config, checkpoint, '-o', tmp_path / 'o')


def test_own_backbone_cannot_be_exported(tmp_path, capsys, repo):
    _, _, checkpoint = trained(tmp_path)
    config = repo / 'configs' / 'mmpretrain' / 'resnet56s_afan_cifar10.py'
    assert 'which no stock package has' in error_of(capsys, 'export', config, checkpoint, '-o', tmp_path / 'o')


def test_data_sets_of_mmafan_are_left_out(repo):
    from mmafan.cli.configs import read_config
    from mmafan.cli.stock import stock_config
    cfg, left_out = stock_config(read_config(str(repo / 'configs' / 'mmpretrain' / 'resnet_afan_digits.py')))
    assert [sentence.split()[1] for sentence in left_out] == ['train', 'val', 'test']
    assert 'mmafan' not in cfg.pretty_text and cfg.model.type == 'ImageClassifier'
    assert not {'train_dataloader', 'train_cfg', 'optim_wrapper', 'custom_imports', 'custom_hooks'} & set(cfg)
