"""Tasks and loaders against independent readings of the archives, and every damage that an archive can take."""

import gc
import gzip
import hashlib
import shutil
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import platformdirs
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import contlearn.data
from contlearn import Task, joint, load_fashion_mnist, load_mnist, permuted, split
from contlearn.data import SHIPPED, batches

SETS = {"mnist": load_mnist, "fashion-mnist": load_fashion_mnist}
PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(params=SETS)
def folder_and_task(request, mnist, fashion):
    return request.param, {"mnist": mnist, "fashion-mnist": fashion}[request.param]


def read_idx(path):
    """An IDX archive in three lines of numpy: the third byte of the magic number counts the dimensions."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


# ----------------------------------------------------------------------------------------------- the shipped sets


def test_tasks_equal_an_independent_reading_of_the_archives(folder_and_task):
    """Every pixel and label against numpy's reading: x = v / 255 in float32."""
    folder, task = folder_and_task
    for tensor, part in zip((*task.train.tensors, *task.test.tensors), PARTS, strict=True):
        expected = read_idx(SHIPPED / folder / f"{part}.gz")
        if "images" in part:
            expected = expected.astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(tensor.numpy(), expected)


def test_tasks_equal_torchvisions_own_reading(folder_and_task, tmp_path):
    """Every pixel and label against torchvision's data set, reading the same archives."""
    folder, task = folder_and_task
    theirs = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[folder]
    raw = tmp_path / theirs / "raw"
    raw.mkdir(parents=True)
    for part in PARTS:
        (raw / part).write_bytes(gzip.decompress((SHIPPED / folder / f"{part}.gz").read_bytes()))
    for train_set, ours in ((True, task.train), (False, task.test)):
        dataset = getattr(contlearn.data._torchvision_datasets(), theirs)(tmp_path, train=train_set)
        assert torch.equal(ours.tensors[0], dataset.data / 255)
        assert torch.equal(ours.tensors[1], dataset.targets)
        first_names = [name.split(" - ")[-1].split("/")[0].lower() for name in dataset.classes]
        assert [name.lower() for name in task.classes.values()] == first_names


def test_shapes_types_and_ranges(folder_and_task):
    """What the design promises: float32 in [0, 1], int64, contiguous, 60,000 and 10,000."""
    _, task = folder_and_task
    for part, count in ((task.train, 60_000), (task.test, 10_000)):
        images, labels = part.tensors
        assert images.shape == (count, 28, 28)
        assert images.dtype == torch.float32
        assert images.is_contiguous()
        assert (float(images.min()), float(images.max())) == (0, 1)
        assert labels.shape == (count,)
        assert labels.dtype == torch.int64
    assert list(task.classes) == list(range(10))


def test_mean_and_deviation_are_the_published_ones(mnist, fashion):
    """0.1307 ± 0.3081 and 0.2860 ± 0.3530: the constants of countless normalising transforms."""
    for task, mean, deviation in ((mnist, 0.1307, 0.3081), (fashion, 0.2860, 0.3530)):
        assert float(task.train.tensors[0].mean()) == pytest.approx(mean, abs=5e-5)
        assert float(task.train.tensors[0].std()) == pytest.approx(deviation, abs=5e-5)


def test_images_per_class_are_the_published_ones(mnist, fashion):
    """MNIST's well-known uneven counts; Fashion-MNIST's even ones."""
    train_counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test_counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train.tensors[1].bincount().tolist() == train_counts
    assert mnist.test.tensors[1].bincount().tolist() == test_counts
    assert fashion.train.tensors[1].bincount().tolist() == [6000] * 10
    assert fashion.test.tensors[1].bincount().tolist() == [1000] * 10


def test_hashes_in_the_code_are_those_beside_the_data():
    """The table in data.py against files/data/SHA256SUMS."""
    lines = (SHIPPED / "SHA256SUMS").read_text().split("\n")
    assert {key: digest for digest, key in (line.split() for line in lines if line)} == contlearn.data._SHA256


def test_loading_leaves_torchvision_alone_and_torchvision_still_imports(start_python):
    """In a fresh Python: no torchvision after both loads, and data sets that work when they are asked for."""
    process = start_python(
        "import sys, warnings, contlearn\n"
        "contlearn.load_mnist(), contlearn.load_fashion_mnist()\n"
        "assert not [m for m in sys.modules if 'torchvision' in m], 'torchvision was imported'\n"
        "import contlearn.data\n"
        "found = contlearn.data._torchvision_datasets()\n"
        "assert issubclass(found.FashionMNIST, found.MNIST) and contlearn.data._torchvision_datasets() is found\n"
        "warnings.simplefilter('ignore', ResourceWarning)\n"  # torch 2.6 leaves a folder to the interpreter's end
        "print('fine')"
    )
    assert process.communicate() == ("fine\n", "")


# ------------------------------------------------------------------------------------------------------- loaders


def order_of(loader, dataset):
    """The positions in the data set of the images in one pass; each image must occur in it once."""
    position = {image.numpy().tobytes(): n for n, (image, _) in enumerate(dataset)}
    assert len(position) == len(dataset)
    found = []
    for images, labels in loader:
        places = [position[image.numpy().tobytes()] for image in images]
        assert torch.equal(labels, dataset.tensors[1][places])
        found += places
    return found


def test_loaders_are_real_dataloaders(toy):
    """Anyone's tools for `DataLoader` see one: its type, its length, its data set, batches of the asked-for size."""
    loader = toy.train_loader(batch_size=40)
    assert isinstance(loader, DataLoader)
    assert isinstance(toy.test_loader(), DataLoader)
    assert len(loader) == 3
    assert loader.dataset is toy.train
    assert [images.shape for images, _ in loader] == [(40, 4, 4), (40, 4, 4), (16, 4, 4)]


def test_every_image_comes_exactly_once_in_a_pass(toy):
    """Each pass is a permutation of all images, and labels stay with their images."""
    loader = toy.train_loader(batch_size=40, seed=0)
    for _ in range(2):
        assert sorted(order_of(loader, toy.train)) == list(range(96))


def test_without_shuffling_the_order_is_that_of_the_task(toy):
    """0, 1, 2, … for the test set, and for the training set on demand."""
    assert order_of(toy.test_loader(7), toy.test) == list(range(48))
    assert order_of(toy.train_loader(7, shuffle=False), toy.train) == list(range(96))


def test_a_seed_fixes_the_sequence_and_passes_differ(toy):
    """Two loaders of one seed agree pass by pass; passes differ from one another, and seeds do."""
    loaders = [toy.train_loader(10, seed=seed) for seed in (3, 3, 4)]
    orders = [[order_of(loader, toy.train) for _ in range(2)] for loader in loaders]
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]
    assert orders[0] != orders[2]


def test_a_seeded_loader_neither_reads_nor_changes_the_global_generator(toy):
    """The same order whatever `torch.manual_seed` was given, and the same global state afterwards."""
    orders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        orders.append(order_of(toy.train_loader(10, seed=3), toy.train))
        assert torch.equal(torch.get_rng_state(), before)
    assert orders[0] == orders[1]


def test_an_unseeded_loader_follows_manual_seed(toy):
    """Same global seed, same order; another one, another order."""
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(order_of(toy.train_loader(10), toy.train))
    assert orders[0] == orders[1] != orders[2]


def test_a_pass_over_the_test_set_leaves_the_training_order_alone(toy):
    """The global generator's state is the same before and after."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(toy.test_loader(5))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_refuses_an_empty_batch_size(toy):
    """Torch's own message."""
    with pytest.raises(ValueError, match="batch_size should be a positive integer value, but got batch_size=0"):
        toy.train_loader(batch_size=0)


# ------------------------------------------------------------------------------------- permuted, split, joint, to


def test_permuted_moves_all_pixels_by_one_permutation(toy):
    """The permutation, found again from one image whose 16 pixels all differ, holds for every image of both parts."""
    new = permuted(toy, seed=5)
    old_pixels, new_pixels = toy.train.tensors[0][0].flatten().tolist(), new.train.tensors[0][0].flatten().tolist()
    assert len(set(old_pixels)) == 16
    pi = [old_pixels.index(value) for value in new_pixels]
    assert sorted(pi) == list(range(16)) != pi
    for before, after in ((toy.train, new.train), (toy.test, new.test)):
        expected = before.tensors[0].numpy().reshape(-1, 16)[:, pi].reshape(-1, 4, 4)
        np.testing.assert_array_equal(after.tensors[0].numpy(), expected)
        assert torch.equal(after.tensors[1], before.tensors[1])
    assert new.classes == toy.classes


def test_permuted_is_reproducible_and_seeds_differ(toy):
    """The seed alone decides, whatever the global generator does; its number is in the name."""
    torch.manual_seed(0)
    first = permuted(toy, 5)
    torch.manual_seed(1)
    again, other = permuted(toy, 5), permuted(toy, 6)
    assert torch.equal(first.train.tensors[0], again.train.tensors[0])
    assert not torch.equal(first.train.tensors[0], other.train.tensors[0])
    assert (first.name, other.name) == ("toy permuted 5", "toy permuted 6")


def test_permuted_mnist_keeps_each_images_pixels(mnist):
    """The real set: pixel values of an image are a rearrangement of the original's; the original is left as it was."""
    before = mnist.test.tensors[0][:50].clone()
    images = permuted(Task("MNIST", mnist.classes, mnist.test, mnist.test), 0).test.tensors[0][:50]
    assert images.shape == (50, 28, 28)
    assert torch.equal(images.flatten(1).sort().values, before.flatten(1).sort().values)
    assert torch.equal(mnist.test.tensors[0][:50], before)
    assert not torch.equal(images, before)


@pytest.mark.parametrize("classes_per_task", [1, 2, 4])
def test_split_is_a_partition(toy, classes_per_task):
    """Every image is in the one part that has its class, in its old order, with its label."""
    parts = split(toy, classes_per_task)
    assert [list(part.classes) for part in parts] == [
        list(range(first, first + classes_per_task)) for first in range(0, 4, classes_per_task)
    ]
    for whole, pieces in ((toy.train, [p.train for p in parts]), (toy.test, [p.test for p in parts])):
        for part, piece in zip(parts, pieces, strict=True):
            chosen = [n for n, (_, label) in enumerate(whole) if int(label) in part.classes]
            assert torch.equal(piece.tensors[0], whole.tensors[0][chosen])
            assert torch.equal(piece.tensors[1], whole.tensors[1][chosen])
        assert sum(map(len, pieces)) == len(whole)


def test_split_mnist_has_the_published_sizes(mnist):
    """Five tasks of two digits, as long as the published counts of the digits together."""
    parts = split(mnist, 2)
    assert [len(part.train) for part in parts] == [12665, 12089, 11263, 12183, 11800]
    assert parts[1].name == "MNIST 2/3"
    assert parts[1].classes == {2: "two", 3: "three"}


@pytest.mark.parametrize("classes_per_task", [3, 0, -1, 5])
def test_split_names_the_numbers_that_divide(toy, classes_per_task):
    """The value that was wrong and the values that would be right."""
    message = rf"classes_per_task={classes_per_task} does not divide the 4 classes of toy; choose one of \[1, 2, 4\]"
    with pytest.raises(ValueError, match=message):
        split(toy, classes_per_task)


def test_joint_holds_all_images_of_all_tasks(toy):
    """Concatenation in order; two names of one label are both kept."""
    other = Task("other", {3: "d", 4: "e"}, toy.test, toy.train)
    both = joint([toy, other])
    assert both.name == "toy + other"
    assert both.classes == {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}
    for place in (0, 1):
        assert torch.equal(both.train.tensors[place], torch.cat([toy.train.tensors[place], toy.test.tensors[place]]))
        assert torch.equal(both.test.tensors[place], torch.cat([toy.test.tensors[place], toy.train.tensors[place]]))


def test_joint_names_both_meanings_of_a_label(mnist, fashion):
    """A shared output 0 means a zero and a T-shirt."""
    small = [Task(t.name, t.classes, t.test, t.test) for t in (mnist, fashion)]
    assert joint(small).classes[0] == "zero / T-shirt"


def test_joint_undoes_split(toy):
    """The same images come back, sorted by class."""
    order = toy.train.tensors[1].argsort(stable=True)
    assert torch.equal(joint(split(toy, 1)).train.tensors[0], toy.train.tensors[0][order])


def test_joint_refuses_no_task():
    """An empty list has no images."""
    with pytest.raises(ValueError, match="at least one task, got none"):
        joint([])


def test_to_moves_every_tensor(toy):
    """All four tensors, on torch's device without memory; the task itself stays where it is."""
    moved = toy.to("meta")
    assert {t.device.type for part in (moved.train, moved.test) for t in part.tensors} == {"meta"}
    assert {t.device.type for part in (toy.train, toy.test) for t in part.tensors} == {"cpu"}
    assert (moved.name, moved.classes) == (toy.name, toy.classes)


# ------------------------------------------------------------------------------------------------------- batches

IMAGES, LABELS = torch.rand(4, 2), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        pytest.param([], ValueError, "the loader is empty: it yields no images", id="empty list"),
        pytest.param([(IMAGES[:0], LABELS[:0])], ValueError, "the loader is empty", id="empty batches"),
        pytest.param([IMAGES], TypeError, r"pairs of tensors \(inputs, labels\), got Tensor", id="images alone"),
        pytest.param([(IMAGES, LABELS, LABELS)], TypeError, "must yield pairs of tensors.*got tuple", id="triple"),
        pytest.param([{"x": IMAGES, "y": LABELS}], TypeError, "must yield pairs of tensors.*got dict", id="dict"),
        pytest.param([(IMAGES, [0, 1, 2, 0])], TypeError, "must yield pairs of tensors", id="labels in a list"),
        pytest.param(
            [(IMAGES, LABELS.float())], ValueError, r"integers of shape \(4,\).*got torch.float32", id="float"
        ),
        pytest.param([(IMAGES, LABELS[:, None])], ValueError, r"got torch.int64 of shape \(4, 1\)", id="column"),
        pytest.param([(IMAGES, LABELS[0])], ValueError, r"got torch.int64 of shape \(\)", id="one label"),
        pytest.param([(IMAGES, LABELS[:3])], ValueError, r"shape \(4,\), one for each input, .* \(3,\)", id="too few"),
    ],
)
def test_batches_refuse_what_is_no_batch(loader, error, message):
    """Each of the common mistakes, with what was expected and what was found."""
    with pytest.raises(error, match=message):
        list(batches(loader, "cpu"))


def test_batches_take_anyones_loader():
    """A list, a generator, and torch's own collating loader give the same pairs."""
    collating = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=2)
    by_hand = [(IMAGES[:2], LABELS[:2]), (IMAGES[:0], LABELS[:0]), [IMAGES[2:], LABELS[2:]]]
    for loader in (collating, by_hand, (pair for pair in by_hand)):
        found = list(batches(loader, "cpu"))
        assert torch.equal(torch.cat([x for x, _ in found]), IMAGES)
        assert torch.equal(torch.cat([y for _, y in found]), LABELS)


# ------------------------------------------------------------------------------------------------------ archives


def idx(magic, shape, size):
    return gzip.compress(b"".join(n.to_bytes(4, "big") for n in (magic, *shape)) + bytes(size), 1)


def altered(path):
    """A complete archive of the right shape in which one label is another."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[-1] ^= 1
    return gzip.compress(bytes(raw), 1)


DAMAGES = {  # which archive, what stands in its place, and what the message must say
    "truncated": (0, lambda p: p.read_bytes()[:5000], "truncated or damaged.*found 5,000 bytes.*end"),
    "html": (0, lambda p: b"<html>403</html>", "expected a gzip archive, found 16 bytes.*[Nn]ot a gzip"),
    "zeros": (0, lambda p: p.read_bytes()[:200] + bytes(9000), "truncated or damaged.*found 9,200 bytes"),
    "other shape": (
        0, lambda p: idx(0x0803, (60_000, 28, 27), 0), r"shape: expected .*\(60000, 28, 28\), found \(60000, 28, 27\)"
    ),
    "floats": (0, lambda p: idx(0x0D03, (60_000, 28, 28), 0), "wrong shape.*magic number 0x0d03"),
    "too short": (0, lambda p: idx(0x0803, (60_000, 28, 28), 99), "wrong shape.*and 99 bytes of data"),
    "empty": (0, lambda p: b"", "wrong shape.*magic number 0x0000 and 0 bytes"),
    "missing": (0, lambda p: None, "is missing: expected .* 60,000 entries"),
    "images for labels": (
        3, lambda p: p.with_name(f"{PARTS[2]}.gz").read_bytes(),
        r"unsigned bytes \(10000,\), found .* magic number 0x0803 and 7,840,008 bytes",
    ),
    "altered": (3, altered, "was altered: expected SHA-256 ff7bcfd4.*, found [0-9a-f]{64}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_archive_is_named_with_what_was_expected_and_found(tmp_path, kind):
    """One archive of four is replaced by each kind of damage; the message also says what to do."""
    part, damage, message = DAMAGES[kind]
    (tmp_path / "mnist").mkdir()
    for name in PARTS:
        (tmp_path / "mnist" / f"{name}.gz").symlink_to(SHIPPED / "mnist" / f"{name}.gz")
    broken = tmp_path / "mnist" / f"{PARTS[part]}.gz"
    content = damage(SHIPPED / "mnist" / broken.name)
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    with pytest.raises(FileNotFoundError if content is None else ValueError, match=message) as caught:
        load_mnist(tmp_path)
    assert str(broken) in str(caught.value)
    assert any(advice in str(caught.value) for advice in ("Restore it", "Put it there"))


def test_a_missing_folder_is_named(tmp_path):
    """A root without the set: the first archive's path and what to do."""
    with pytest.raises(FileNotFoundError, match=r"train-images.* is missing.*or call without root") as caught:
        load_fashion_mnist(str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere" / "fashion-mnist") in str(caught.value)


# ------------------------------------------------------------------------------------------------------ download


class Server(ThreadingHTTPServer):
    """The shipped archives on 127.0.0.1; `answer(handler, body)` may answer in another way."""

    def __init__(self, folder, answer=None):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.server.requests.append(self.path)
                body = (folder / self.path[1:]).read_bytes()
                (answer or send)(self, body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []

    @property
    def mirrors(self):
        return [f"http://127.0.0.1:{self.server_port}/"]

    def handle_error(self, *_):  # a client that leaves early is part of the tests
        pass

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()


def send(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def md5s(folder):
    """The list of files and MD5s that torchvision keeps, for the recompressed archives of this repository."""
    return [(f"{p}.gz", hashlib.md5((folder / f"{p}.gz").read_bytes()).hexdigest()) for p in PARTS]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """No shipped data, an empty user cache, and no proxy before the loopback server."""
    monkeypatch.setattr(contlearn.data, "SHIPPED", tmp_path / "not shipped")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "contlearn"


@pytest.fixture
def serve(monkeypatch):
    """Let torchvision's own downloader fetch a folder's archives from a server on the loopback interface."""
    servers = []

    def start(folder, answer=None, resources=None):
        servers.append(Server(folder, answer).__enter__())
        dataset = contlearn.data._torchvision_datasets()
        dataset = dataset.FashionMNIST if folder.name == "fashion-mnist" else dataset.MNIST
        monkeypatch.setattr(dataset, "mirrors", servers[-1].mirrors)
        monkeypatch.setattr(dataset, "resources", resources or md5s(folder))
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()
    gc.collect()  # torchvision leaves the sockets of failed requests to the garbage collector; see LEFT_OPEN


LEFT_OPEN = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("folder", SETS)
def test_torchvision_downloads_once_into_the_users_cache(cache, serve, folder, mnist, fashion):
    """The real downloader over HTTP: the same task as the shipped one; the second load asks no server."""
    server = serve(SHIPPED / folder)
    task = SETS[folder]()
    assert files_in(cache) == sorted(f"{folder}/{part}.gz" for part in PARTS)
    assert [path.name for path in cache.iterdir()] == [folder]
    requests = len(server.requests)
    assert requests > 0
    for found in (task, SETS[folder]()):
        expected = {"mnist": mnist, "fashion-mnist": fashion}[folder]
        for ours, theirs in zip(
            (*found.train.tensors, *found.test.tensors), (*expected.train.tensors, *expected.test.tensors), strict=True
        ):
            assert torch.equal(ours, theirs)
    assert len(server.requests) == requests


def refuse(status):
    def answer(handler, body):
        handler.send_error(status)

    return answer


def stop_halfway(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])


def talk_nonsense(handler, body):
    handler.wfile.write(b"no HTTP at all\r\n\r\n")


def hang_up(handler, body):
    handler.connection.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(refuse(403), "could not be downloaded.*HTTP Error 403", id="403"),
        pytest.param(refuse(404), "could not be downloaded.*HTTP Error 404", id="404"),
        pytest.param(stop_halfway, "could not be downloaded", id="truncated"),
        pytest.param(talk_nonsense, "could not be downloaded.*no HTTP at all", id="nonsense"),
        pytest.param(hang_up, "could not be downloaded", id="hung up"),
    ],
)
@LEFT_OPEN
def test_a_failed_download_says_so_and_leaves_no_file(cache, serve, answer, message):
    """What the server did, where to put the archives by hand, and an empty cache."""
    serve(SHIPPED / "mnist", answer)
    with pytest.raises(RuntimeError, match=f"(?s)MNIST {message}.*try again, or put the four archives") as caught:
        load_mnist()
    assert str(cache / "mnist") in str(caught.value)
    assert files_in(cache) == []


def test_an_altered_download_is_refused_and_not_kept(cache, serve, tmp_path):
    """Bytes that pass the mirror's MD5 but are not MNIST; the advice fits a download."""
    shutil.copytree(SHIPPED / "mnist", tmp_path / "mirror")
    broken = tmp_path / "mirror" / f"{PARTS[3]}.gz"
    broken.write_bytes(altered(broken))
    serve(tmp_path / "mirror")
    with pytest.raises(RuntimeError, match=f"(?s)could not be downloaded.*{PARTS[3]}.* was altered.*try again"):
        load_mnist()
    assert files_in(cache) == []


@LEFT_OPEN
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs a signal that ends a wait for the network")
def test_an_interrupted_download_leaves_no_file(cache, serve):
    """Ctrl-C in the middle of the first archive, while the main thread waits for the rest of it."""
    over = threading.Event()

    def interrupt(handler, body):
        stop_halfway(handler, body)
        handler.wfile.flush()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        over.wait(60)  # the connection stays open: that it is cut off must not be noticed first

    serve(SHIPPED / "mnist", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_mnist()
    over.set()
    assert files_in(cache) == []
    assert [path.name for path in cache.iterdir()] in ([], ["mnist"])


def test_a_damaged_cache_is_named(cache, serve):
    """An archive that was cut short after the download: the cache's path, and to delete its folder."""
    (cache / "mnist").mkdir(parents=True)
    for part in PARTS:
        (cache / "mnist" / f"{part}.gz").write_bytes((SHIPPED / "mnist" / f"{part}.gz").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cache.*train-images.*truncated or damaged.*delete its folder"):
        load_mnist()


DOWNLOAD = """
import ast, pathlib, sys
import platformdirs, contlearn.data
contlearn.data.SHIPPED = pathlib.Path("not shipped")
platformdirs.user_cache_path = lambda name: pathlib.Path(sys.argv[1])
dataset = contlearn.data._torchvision_datasets().MNIST
dataset.mirrors, dataset.resources = ast.literal_eval(sys.argv[2])
print(len(contlearn.load_mnist().train))
"""


def test_two_processes_may_download_at_once(tmp_path, start_python):
    """Both begin before either may finish; both succeed; four archives and nothing else remain."""
    both_here = threading.Barrier(2)

    def wait_for_both(handler, body):
        if handler.path == f"/{PARTS[3]}.gz" and not both_here.broken and len(handler.server.waited) < 2:
            handler.server.waited.append(handler.path)
            both_here.wait(timeout=120)
        send(handler, body)

    with Server(SHIPPED / "mnist", wait_for_both) as server:
        server.waited = []
        setting = repr((server.mirrors, md5s(SHIPPED / "mnist")))
        processes = [start_python(DOWNLOAD, tmp_path / "cache", setting) for _ in range(2)]
        results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert [out for out, _ in results] == ["60000\n"] * 2
    assert len(server.waited) == 2
    assert files_in(tmp_path / "cache") == sorted(f"mnist/{part}.gz" for part in PARTS)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mnist"]
