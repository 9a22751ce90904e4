import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import launch
from conftest import ROOT, call, one_error_line, scene, script, tiny, wait_for, write_pairs
from core import checkpoint, cli, distributed
from core.config import DEFAULTS, load_config
from core.distributed import Pulse, World
from core.errors import UserError
from core.files import CLAIMS
from dataset import ValidationSet
from imaging.pairs import read_pairs
from imaging.pictures import save_picture
from infer import infer
from inference.predictor import Predictor
from inference.torch_backend import live_network
from submission.submission_csv import read_rows
from train import main as train_main
from train import train
from training.validation import Validator, reference_levels
from u2net import U2Net

PROCESSES = multiprocessing.get_context("forkserver")  # forked where no library has started a thread yet
PROCESSES.set_forkserver_preload(["torch.utils.data", "torch.distributed", "cv2", "pydantic", "yaml", "tqdm",
                                  "PIL.Image", "pytest", "hypothesis"])
PATIENCE = 300  # seconds; on a busy machine a process may take long to start


def together(size: int, folder: Path, work, *arguments) -> list:
    """work(world, *arguments) in `size` processes -> its results by rank."""
    workers = [PROCESSES.Process(target=member, args=(rank, size, folder, work, arguments)) for rank in range(size)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    assert [worker.exitcode for worker in workers] == [0] * size
    return [pickle.loads((folder / f"{rank}of{size}").read_bytes()) for rank in range(size)]


def member(rank: int, size: int, folder: Path, work, arguments) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / f"store{size}"), size), rank=rank,
                            world_size=size)
    result = work(World(rank, size, dist.group.WORLD), *arguments)
    (folder / f"{rank}of{size}").write_bytes(pickle.dumps(result))


@pytest.mark.parametrize("size, images, most", [(1, 5, None), (1, 5, 2), (2, 5, 2), (3, 4, None), (3, 12, 2)])
def test_a_batch_is_shared_out_whole_in_equally_many_passes(size, images, most):
    shares = [World(rank, size).passes(range(images), most) for rank in range(size)]
    assert sorted(image for share in shares for part in share for image in part) == list(range(images))
    assert len({len(share) for share in shares}) == 1
    assert all(1 <= len(part) <= (most or images) for share in shares for part in share)


@pytest.mark.parametrize("size, images, most", [(3, 2, None), (2, 3, 1)])
def test_a_batch_too_small_to_share_is_refused(size, images, most):
    with pytest.raises(UserError, match=f"a multiple of {size}"):
        World(0, size).passes(range(images), most)


def test_validation_gives_the_same_numbers_for_any_number_of_processes(tmp_path):
    pairs_csv = write_pairs(tmp_path / "pairs", 5, 64)
    alone = together(1, tmp_path, validated, pairs_csv, tmp_path)[0]
    for batch_size in (1, 2):
        assert alone[batch_size][-1] == ["rgb_0.png", "rgb_3.png"] and len(alone[batch_size][1]) == 5
    for size in (2, 3):
        assert together(size, tmp_path, validated, pairs_csv, tmp_path) == [alone] * size


def validated(world: World, pairs_csv: Path, folder: Path) -> dict[int, tuple]:
    """By batch size."""
    return {batch_size: validated_in_batches(world, pairs_csv, folder, batch_size) for batch_size in (1, 2)}


def validated_in_batches(world: World, pairs_csv: Path, folder: Path, batch_size: int) -> tuple:
    cfg = load_config(DEFAULTS, tiny(pairs_csv, folder))
    val_set = ValidationSet(read_pairs(pairs_csv), cfg)
    torch.manual_seed(0)
    predict = Predictor(live_network(U2Net(), "none", torch.device("cpu"), "fp32"), 64)
    levels = reference_levels(val_set, cfg, folder / f"levels{world.size}{batch_size}.json", world)
    predict.batch_size = batch_size
    result, pictures = Validator(predict, val_set, world=world).validate(shown=[0, 3])
    counts = {name: values.tolist() for name, values in result.histograms.items()}
    return levels, result.images, result.means(), counts, [picture[0]["image"] for picture in pictures]


@pytest.fixture
def settings(run_dir, tmp_path) -> list[str]:
    """Inference of 7 images."""
    for i in range(7):
        save_picture(tmp_path / f"images/{i}.png", scene(64, i)[0])
    return [f"infer.images={tmp_path}/images", f"train.out_dir={run_dir}", "infer.tta=none", "infer.backend=torch"]


def test_inference_merges_to_the_bytes_of_one_process(settings, tmp_path):
    for size in (1, 2, 3):
        together(size, tmp_path, inferred_in_batches, settings, tmp_path, [(batch,) * size for batch in (1, 2)])
        for batch in (1, 2):
            target = submission_of(tmp_path, [batch] * size)
            assert [path.name for path in target.parent.iterdir()] == ["s.csv"]
            assert target.read_bytes() == submission_of(tmp_path, [batch]).read_bytes()


def test_processes_with_different_batch_sizes_write_each_row_once_and_in_order(settings, tmp_path):
    cases = [(1, 4), (3, 2), (4, 1)]
    together(2, tmp_path, inferred_in_batches, settings, tmp_path, cases)
    for sizes in cases:
        assert [name for _, name, _ in read_rows(submission_of(tmp_path, sizes))] == [str(i) for i in range(7)]


def inferred_in_batches(world: World, overrides: list[str], folder: Path, cases: list[tuple[int, ...]]) -> None:
    """cases: the batch size of each process."""
    for sizes in cases:
        inferred(world, [*overrides, f"infer.batch_size={sizes[world.rank]}",
                         f"infer.submission={submission_of(folder, sizes)}"])


def submission_of(folder: Path, sizes: Sequence[int]) -> Path:
    return folder / "-".join(map(str, sizes)) / "s.csv"


def test_processes_that_find_different_images_are_told(run_dir, tmp_path):
    for rank, count in enumerate((3, 2)):
        for i in range(count):
            save_picture(tmp_path / f"images{rank}/{i}.png", scene(64, i)[0])
    settings = [f"train.out_dir={run_dir}", "infer.tta=none", "infer.backend=torch",
                f"infer.submission={tmp_path}/s.csv"]
    assert together(2, tmp_path, refused, settings, tmp_path) == [True, True]
    assert not list(tmp_path.glob("*.csv"))


def refused(world: World, overrides: list[str], folder: Path) -> bool:
    try:
        inferred(world, [*overrides, f"infer.images={folder}/images{world.rank}"])
    except UserError as error:
        return "different images" in str(error)


def test_each_process_keeps_its_own_statistics_until_they_are_averaged(tmp_path):
    own, averaged = zip(*together(2, tmp_path, statistics), strict=True)
    assert own == (pytest.approx(0.1), pytest.approx(0.3))  # BatchNorm's momentum is 0.1; the inputs are 1 and 3
    assert averaged == (pytest.approx(0.25),) * 2


@torch.no_grad()
def statistics(world: World) -> tuple[float, float]:
    model = nn.Sequential(nn.BatchNorm2d(1))
    trained = world.wrap(model)
    for value in (1.0 + 2 * world.rank, 0.0):  # a second pass that began with process 0's buffers would end with them
        trained(torch.full((2, 1, 4, 4), value))
    own = model[0].running_mean.item() / 0.9
    world.average_statistics(model, (0.25, 0.75)[world.rank])
    return own, model[0].running_mean.item() / 0.9


def inferred(world: World, overrides: list[str]) -> None:
    infer(load_config(DEFAULTS, overrides), world)


@pytest.mark.parametrize("still", [0, 1])  # 0 is the store's host
def test_a_process_that_stands_still_ends_the_others(still):
    port = free_port()
    workers = [PROCESSES.Process(target=stand_or_wait, args=(rank, port, rank == still)) for rank in range(2)]
    try:
        for worker in workers:
            worker.start()
        workers[1 - still].join(PATIENCE)
        assert workers[1 - still].exitcode == 1
    finally:
        for worker in workers:
            worker.kill()


def stand_or_wait(rank: int, port: int, stands: bool) -> None:
    distributed.BEAT, distributed.SILENCE = 0.2, 2
    store = dist.TCPStore("127.0.0.1", port, 2, rank == 0)
    pulse = Pulse(store, rank, 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    pulse.start()
    if stands:
        os.kill(os.getpid(), signal.SIGSTOP)
    dist.barrier()


def test_two_processes_train_as_one_and_go_on_where_one_has_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(nn.BatchNorm2d, "train", lambda self, mode=True: nn.Module.train(self, False))
    pairs_csv = write_pairs(tmp_path / "pairs", 5, 64)
    options = ["train.batch_size=5", "train.epochs=3", "train.lr=1e-4", "train.schedule=plateau", "train.ema=0.5",
               "train.grad_clip=1", "train.amp=fp32", "train.samples=0", "model.predicts=dense"]

    def run(name, *more):
        train(load_config(DEFAULTS, tiny(pairs_csv, tmp_path / name, *options, *more)))

    run("whole")
    run("parts", "train.max_hours=1e-9")  # one step
    CLAIMS.pop(str(tmp_path / "parts")).close()  # this process goes on, but not in there
    port = free_port()
    outputs = [tmp_path / f"{rank}.txt" for rank in range(2)]
    workers = [PROCESSES.Process(target=train_frozen, args=(rank, port, output, tiny(
        pairs_csv, tmp_path / "parts", *options, "train.micro_batch=2"))) for rank, output in enumerate(outputs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    said, quiet = (output.read_text() for output in outputs)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert "2 processes on 1 machine(s), gloo: no GPU" in said and "after 1 batches" in said and not quiet
    whole, parts = (checkpoint.load(tmp_path / name / "last.pth") for name in ("whole", "parts"))
    assert parts["progress"]["step"] == 3
    for state in ("model_state", "average_state"):
        for key, value in whole[state].items():
            torch.testing.assert_close(parts[state][key], value, rtol=0, atol=1e-6, msg=key)
    for key, value in whole["optimizer"]["state"].items():  # the gradients' mean: AdamW's steps hide their scale
        torch.testing.assert_close(parts["optimizer"]["state"][key]["exp_avg"], value["exp_avg"], rtol=1e-3, atol=1e-7)
    for one, two in zip(whole["progress"]["history"], parts["progress"]["history"], strict=True):
        for key in ("train_loss", "train_mse", "loss_thin", "val_mse", "val_mse_dense", "val_floor"):
            assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-6), key


def train_frozen(rank: int, port: int, output: Path, arguments: list[str]) -> None:
    """train.py as torchrun starts it, but with frozen BatchNorm: statistics over a share differ from the batch's."""
    nn.BatchNorm2d.train = lambda self, mode=True: nn.Module.train(self, False)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
    sys.argv = ["train.py", *arguments]
    cli.run(train_main)


def test_a_killed_process_ends_the_run_with_one_line(pairs_csv, tmp_path, start):
    launcher = start(
        [sys.executable, ROOT / "scripts/launch.py", "train", "--gpus", "2",
         *tiny(pairs_csv, tmp_path, "train.epochs=1000")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "metrics.csv")
    os.kill(children(launcher.pid)[-1], signal.SIGKILL)
    out, err = launcher.communicate(timeout=PATIENCE)
    line = one_error_line(subprocess.CompletedProcess([], launcher.returncode, out, err), 1)
    assert "was killed by SIGKILL" in line and "run the same command again to resume from last.pth" in line
    assert len(err.splitlines()) == 1, err


def test_a_users_mistake_is_said_once_whoever_sees_it(tmp_path):
    result = script("scripts/launch.py", "train", "--gpus", "2", f"data.train_csv={tmp_path}/no.csv")
    assert "no.csv: no such pairs CSV" in one_error_line(result, 2)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments, words", [
    (["--gpus", "0"], "--gpus 0"), (["--nnodes", "2"], "MASTER_ADDR"),
    (["--nnodes", "2", "--master-addr", "127.0.0.1", "--node-rank", "2"], "numbered from 0")])
def test_impossible_numbers_of_processes_are_refused(arguments, words):
    code, _, err = call(launch.main, "train", *arguments)
    assert code == 2 and words in err


@pytest.mark.parametrize("variables, command", [
    ([], "scripts/launch.py train --gpus 1 "), (["GPUS=2"], "scripts/launch.py train --gpus 2 "),
    (["RESTARTS=3"], "--restarts 3 "),
    (["NNODES=2", "NODE_RANK=1", "MASTER_ADDR=10.0.0.1"], '--nnodes 2 --node-rank 1 --master-addr "10.0.0.1" ')])
def test_make_starts_as_many_processes_as_asked_for(variables, command):
    said = subprocess.run(["make", "-n", "train", *variables], cwd=ROOT, capture_output=True, text=True, check=True)
    assert command in said.stdout.splitlines()[-1]


def test_one_process_needs_no_launcher(pairs_csv, tmp_path):
    result = script("scripts/launch.py", "train", *tiny(pairs_csv, tmp_path, "train.epochs=1"))
    assert result.returncode == 0 and "done" in result.stdout and "world" not in result.stdout


def children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
