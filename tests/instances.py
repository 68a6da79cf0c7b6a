"""Channels of every kind, as SPECs, for the laws that are about all of them."""

PLAIN = (
    "none",
    "qsgd:levels=16,norm=max",
    "uniform:bits=4",
    "sign:scale=true",
    "ternary",
    "fp16",
    "bf16",
    "topk:density=0.2",
    "randomk:density=0.5,unbiased=true",
    "powersgd:rank=2",
    "gaussian:relative=1",
    "laplace:relative=0.1",
    "clip:norm=0.1",
    "dpsgd:clip=0.1,noise=0.003",
)
