"""Components of every kind, as SPECs, for the laws that are about all of them."""

PLAIN = (
    "none",
    "qsgd:levels=16,norm=max",
    "uniform:bits=4",
    "sign:scale=true",
    "ternary",
    "fp16",
    "bf16",
    "blockwise8",
    "nf4",
    "fp4",
    "topk:density=0.2",
    "randomk:density=0.5,unbiased=true",
    "powersgd:rank=2",
    "gaussian:relative=1",
    "laplace:relative=0.1",
    "clip:norm=0.1",
    "dpsgd:clip=0.1,noise=0.003",
)

OBFUSCATIONS = (
    "none",
    "qsgd:levels=16,norm=max",
    "qsgd:levels=2,norm=max",
    "qsgd:levels=64",
    "qsgd:levels=16,norm=max,bucket=100",
    "qsgd:levels=4,bucket=64,scope=update",
    "qsgd:levels=16,norm=max,scope=update",
    "uniform:bits=8",
    "uniform:bits=4,range=minmax",
    "uniform:bits=4,scope=update",
    "sign",
    "sign:scale=true",
    "ternary",
    "ternary:clip=none",
    "fp16",
    "bf16",
    "blockwise8",
    "blockwise8:block=100",
    "nf4",
    "fp4",
    "topk:density=0.05",
    "topk:density=0.1,scope=update",
    "randomk:density=0.1",
    "randomk:density=0.1,unbiased=true",
    "randomk:density=0.1,scope=update",
    "powersgd:rank=2",
    "gaussian:relative=1",
    "gaussian:sigma=0.01",
    "laplace:relative=1",
    "laplace:sigma=0.01",
    "clip:norm=0.1",
    "clip:norm=1000",
    "dpsgd:clip=0.5,noise=0.01",
    "topk:density=0.2+qsgd:levels=16,norm=max",
    "clip:norm=0.1+gaussian:sigma=0.001",
    "topk:density=0.2+fp16",
    "qsgd:levels=16,norm=max+topk:density=0.2",
    "randomk:density=0.5+sign",
    "topk:density=0.2+nf4",
    "powersgd:rank=2+nf4",
    "powersgd:rank=2+qsgd:levels=16",
    "powersgd:rank=2+fp16",
    "topk:density=0.2+powersgd:rank=2",
    "randomk:density=0.2,unbiased=true+qsgd:levels=16,norm=max",
)

ATTACKS = (
    "unveil:steps=4",
    "unveil+:steps=4",
    "rog:steps=3",
    "inverting_gradients:steps=3",
    "dlg:steps=2",
    "idlg:steps=2",
)

ENHANCERS = ("faithful", "sharp", "semantic", "semantic-tinyimagenet", "semantic-cifar10")

METRICS = ("psnr", "ssim", "ssim_global", "correlation")

TRAININGS = (
    "fedsgd",
    "fedsgd:mode=train",
    "fedsgd:clip=1,noise=0.5",
    "fedavg:steps=2,lr=0.01",
    "fedavg:epochs=2,batch_size=2,lr=0.01,momentum=0.9,shuffle=0",
)
