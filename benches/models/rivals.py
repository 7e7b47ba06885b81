"""Loads a safetensors file once, by a loader of PyPI, and prints what it took.

    rivals.py LOADER FILE

The clock begins when the interpreter and the loader's modules are there. What is loaded is memory of its own: a loader that
only maps the file is made to copy it.
"""

import json
import os
import sys
import time


def safetensors():
    from safetensors.torch import load_file

    return lambda path: [tensor.clone() for tensor in load_file(path).values()]


def fastsafetensors():
    import torch
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def load(path):
        loader = SafeTensorsFileLoader(SingleGroup(), torch.device("cpu"), nogds=True)
        loader.add_filenames({0: [path]})
        buffers = loader.copy_files_to_device()
        return [buffers.get_tensor(name) for name in loader.get_keys()]

    return load


def runai_model_streamer():
    from runai_model_streamer import SafetensorsStreamer

    def load(path):
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path)
            return [tensor.clone() for _, tensor in streamer.get_tensors()]

    return load


def processor_seconds():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main():
    loader, path = sys.argv[1:]
    known = [safetensors, fastsafetensors, runai_model_streamer]
    load = {each.__name__: each for each in known}[loader]()
    cpu, wall = processor_seconds(), time.perf_counter()
    tensors = load(path)
    wall, cpu = time.perf_counter() - wall, processor_seconds() - cpu
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    print(json.dumps({"seconds": wall, "cpu": cpu, "bytes": size}), flush=True)
    # Some loaders' threads outlive the interpreter's end badly.
    os._exit(0)


main()
