#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What users of PyTorch have on the same GPU: AdamW(fused=True) and two averages by _foreach_lerp_.

    bench/cuda_torch.py [--rounds N]

Prints, for GPT-2 124M, the median time by CUDA events of the optimizer followed by both averages, to
set beside the row of polyak_cuda_bench, and the bandwidth of a copy in the same run.
"""
import argparse
import statistics
import sys


def gpt2_shapes():
    width = 768
    shapes = [(50257, width), (1024, width)]
    for _ in range(12):
        shapes += [(width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,),
                   (width,), (width,), (width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return shapes + [(width,), (width,)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds
    try:
        import torch
    except ImportError:
        print("skipped: PyTorch is not installed")
        return 77
    if not torch.cuda.is_available():
        print("skipped: PyTorch sees no CUDA device")
        return 77
    params = [torch.nn.Parameter(torch.zeros(shape, device="cuda")) for shape in gpt2_shapes()]
    for param in params:
        param.grad = torch.full_like(param, 1e-3)
    averages = [[p.detach().clone() for p in params] for _ in range(2)]
    optimizer = torch.optim.AdamW(params, fused=True)
    elements = sum(p.numel() for p in params)
    source = torch.zeros(elements, device="cuda")
    target = torch.empty_like(source)

    def step():
        optimizer.step()
        with torch.no_grad():
            for average, gain in zip(averages, (1e-3, 1e-4)):
                torch._foreach_lerp_(average, params, gain)

    def copy():
        target.copy_(source)

    times = {step: [], copy: []}
    for call in (step, copy, step, copy):
        call()
    for _ in range(rounds):
        for call, record in times.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            record.append(begin.elapsed_time(end))
    milliseconds = statistics.median(times[step])
    rate = 8 * elements / statistics.median(times[copy]) * 1e-6
    print(f"| PyTorch {torch.__version__}: AdamW(fused) and two _foreach_lerp_ | {milliseconds:.4f} ms "
          f"| {44 * elements / milliseconds * 1e-6 / rate:.3f} of the copy ({rate:.0f} GB/s) |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
