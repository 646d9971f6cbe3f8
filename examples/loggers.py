"""What `fit` has to tell, told to the tools that draw it: each is a function of three lines.

    pip install . tensorboardX && python examples/loggers.py [FOLDER]

A callback is a plain function of (step, state, metrics), where metrics are numbers by name, so
there is nothing to adapt to: here are TensorBoard's writer, Weights & Biases and MLflow, and a file
in columns for everything else. The state is there too, for whoever wants histograms of the weights.
A network learns the digits and writes for `tensorboard --logdir runs`; without tensorboardX the
numbers go to the file alone.

It prints (with other versions the numbers differ a little):

    40 rows of 11 columns in runs/digits/log.csv, the last of step 2000: validation accuracy 0.970
"""

import csv
import sys
from pathlib import Path

import jax

import funcnet as fn


def tensorboard(writer):
    """writer: a `SummaryWriter` of tensorboardX, or of torch.utils.tensorboard."""

    def log(step, state, metrics):
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return log


def histograms(writer):
    """Of all parameters by name; they are fetched from the device each time."""

    def log(step, state, metrics):
        for path, leaf in jax.tree_util.tree_flatten_with_path(jax.device_get(state.params))[0]:
            writer.add_histogram(jax.tree_util.keystr(path, simple=True, separator="/"), leaf, step)

    return log


def weights_and_biases(run):
    """run: what `wandb.init(project="digits", resume="allow", id="a")` returns."""

    def log(step, state, metrics):
        run.log(metrics, step=step)

    return log


def mlflow(client):
    """client: the module, `import mlflow`, within `mlflow.start_run()`."""

    def log(step, state, metrics):
        client.log_metrics(metrics, step=step)

    return log


def summary_writer(folder):
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        print("TensorBoard's writer is missing: pip install tensorboardX")
        return None
    return SummaryWriter(folder)


def main(folder="runs/digits", writer=None, steps=2000):
    file = Path(folder) / "log.csv"
    callbacks = [fn.log_csv(file)]
    if writer := writer or summary_writer(folder):
        callbacks += [tensorboard(writer), histograms(writer)]
    network = fn.serial(fn.dense(64, 32), fn.relu, fn.dropout(0.1), fn.dense(32, 10))
    task = fn.supervised(network, fn.cross_entropy, metrics={"accuracy": fn.accuracy})
    train, test = fn.datasets.digits()
    fn.fit(
        fn.trainer(task, fn.adam(1e-3)), train, jax.random.key(0), steps=steps, batch_size=32,
        every=50, validation=test, callbacks=callbacks, report=None,
    )  # fmt: skip
    rows = list(csv.DictReader(file.read_text().splitlines()))
    print(
        f"{len(rows)} rows of {len(rows[0])} columns in {file}, the last of step "
        f"{rows[-1]['step']}: validation accuracy {float(rows[-1]['validation_accuracy']):.3f}"
    )
    if writer:
        writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
