"""Does a training process keep the memory that its steps free, also in the thread that Ray runs it in?"""

import os
import subprocess
import sys

from unimir.train.process import environment

STEPS = """
import resource, threading
import torch
from unimir.train.process import set_up_process

def train():
    set_up_process(1)
    for step in range(60):
        if step == 40:  # by then the heap is as large as it has to be
            before = faults()
        gradient = torch.ones(2**24)  # 64 MB, freed by the next step: more than a thread's heap can hold
    print(faults() - before)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

thread = threading.Thread(target=train)
thread.start()
thread.join()
"""


def test_a_step_asks_the_system_for_no_page_again() -> None:
    faults = {name: faults_with(extra) for name, extra in (("with", environment(gpu=True)), ("without", {}))}
    assert faults["with"] < 2000 < faults["without"] / 10, faults


def faults_with(extra: dict[str, str]) -> int:
    variables = {name: value for name, value in os.environ.items() if name not in environment(gpu=True)} | extra
    done = subprocess.run([sys.executable, "-c", STEPS], env=variables, capture_output=True, text=True, check=True)
    return int(done.stdout)
