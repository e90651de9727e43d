# The data as a folder of images; choose it with --cfg-options
# {train,val,test}_dataloader.dataset.data_root=FOLDER
_base_ = ['./resnet18_afan_cifar10.py', '../_base_/cifar10_folder.py']

data_preprocessor = dict(to_rgb=True)  # image files are read as BGR
train_dataloader = dict(dataset=_base_.folder_train_dataset)
val_dataloader = dict(dataset=_base_.folder_test_dataset)
test_dataloader = dict(dataset=_base_.folder_test_dataset)
