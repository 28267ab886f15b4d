"""A tour: train a robust network, attack it and a plain one, look at the images, compare.

    marimo edit examples/tour.py     # as a notebook (the extra `docs` has marimo)
    python examples/tour.py          # as a script; with --short a look at it

It needs no download and takes less than two minutes on two cores.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="A tour of Sparring")


@app.cell
def _():
    import tempfile

    import marimo as mo
    import matplotlib.pyplot as plt
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    import sparring
    from sparring.attacks import PGD

    return PGD, load_digits, mo, nn, plt, sparring, tempfile, torch


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## The data

    scikit-learn's handwritten digits: 1,797 real scans of 8×8 pixels. Pixels are numbers in [0, 1], and so is ε, the
    most by which an attack may change each of them. 360 images are for testing alone.
    """)
    return


@app.cell
def _(load_digits, mo, torch):
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16  # [1797, 1, 8, 8]
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train_data = images[order[:-360]], labels[order[:-360]]
    test_data = images[order[-360:]], labels[order[-360:]]
    epsilon = 0.15
    short = "short" in mo.cli_args()
    epochs = 1 if short else 12
    return epochs, epsilon, short, test_data, train_data


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Train

    The same perceptron twice, on the same images for the same number of epochs. The first is trained in a plain loop.
    """)
    return


@app.cell
def _(epochs, nn, torch, train_data):
    def perceptron():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def trained_plainly(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
        for _ in range(epochs):
            for batch in torch.randperm(len(train_data[0])).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(train_data[0][batch]), train_data[1][batch]).backward()
                optimizer.step()
        return model.eval()

    plain = trained_plainly(perceptron())
    return perceptron, plain


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    The second is trained by Sparring: every batch is first attacked by eight steps of PGD, and the network learns from
    the attacked images. `engine = "sync"` is the textbook loop in this process; with `"ray"` workers attack while the
    trainer trains.
    """)
    return


@app.cell
def _(
    epochs,
    epsilon,
    mo,
    perceptron,
    sparring,
    tempfile,
    test_data,
    train_data,
):
    settings = {"engine": "sync", "train.epochs": epochs, "attack.epsilon": epsilon, "attack.steps": 8}
    result = sparring.train(
        overrides={**settings, "run.root": tempfile.mkdtemp()},
        model=perceptron(),
        train_data=train_data,
        test_data=test_data,
        progress=False,
    )
    robust = result.load_model()
    mo.md(f"{result.summary['steps']} steps in {result.summary['seconds']:.1f} s: {result.summary['method']}")
    return (robust,)


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Attack

    An attack is called with a model, images and labels. Here are 20 steps on the first eight test images, against each
    network on its own.
    """)
    return


@app.cell
def _(PGD, epsilon, mo, plain, robust, test_data):
    networks = {"plain": plain, "robust": robust}
    shown, truth = test_data[0][:8], test_data[1][:8]
    attack = PGD(epsilon, steps=20)
    attacked = {name: attack(network, shown, truth) for name, network in networks.items()}
    largest = {name: float((found - shown).abs().max()) for name, found in attacked.items()}
    mo.md("; ".join(f"{name}: the largest change of a pixel is {change:.3f}" for name, change in largest.items()))
    return attacked, networks, shown, truth


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Look

    Above the clean images, with their labels. Below, for each network: what the attack adds (δ, magnified so that −ε is
    blue and +ε is red), and the attacked image with what the network takes it for; wrong answers are red.
    """)
    return


@app.cell
def _(attacked, epsilon, networks, plt, shown, truth):
    def look():
        figure, rows = plt.subplots(5, len(shown), figsize=(8, 5.6), layout="constrained")
        grey = {"cmap": "gray", "vmin": 0, "vmax": 1}
        titles = ["clean", "δ, plain", "attacked, plain", "δ, robust", "attacked, robust"]
        for row, title in zip(rows, titles, strict=True):
            row[0].set_ylabel(title, rotation=0, ha="right", va="center")
        for column, label in enumerate(truth.tolist()):
            rows[0, column].imshow(shown[column, 0], **grey)
            rows[0, column].set_title(label)
            for first, (name, found) in zip((1, 3), attacked.items(), strict=True):
                delta, answer = (found - shown)[column, 0], int(networks[name](found)[column].argmax())
                rows[first, column].imshow(delta, cmap="coolwarm", vmin=-epsilon, vmax=epsilon)
                rows[first + 1, column].imshow(found[column, 0], **grey)
                rows[first + 1, column].set_title(answer, color="black" if answer == label else "red")
        plt.setp(rows, xticks=[], yticks=[])
        return figure

    look()
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Compare

    PGD with 50 steps and 3 restarts on all test images, then AutoAttack on a sample: four attacks, one without
    gradients. AutoAttack is the figure to report. An example counts as robust only if it survives every attempt. The
    intervals are Wilson's at 95 %; they hold the chance of the sample; the training has one seed here.
    """)
    return


@app.cell
def _(epsilon, mo, networks, short, sparring, test_data):
    attempts = {"PGD": {}} if short else {"PGD": {}, "AutoAttack": {"attack": "autoattack", "samples": 100}}
    figures = {
        (name, title): sparring.evaluate(network, test_data, epsilon=epsilon, **how)
        for title, how in attempts.items()
        for name, network in networks.items()
    }

    def share(accuracy, interval):
        return f"{accuracy:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"

    def row(name, title, found):
        return {
            "network": name,
            "attack": title,
            "examples": found.samples,
            "clean": share(found.clean_accuracy, found.clean_interval),
            "robust": share(found.robust_accuracy, found.robust_interval),
        }

    rows = [row(name, title, found) for (name, title), found in figures.items()]
    head = " | ".join(rows[0])
    body = "\n".join(" | ".join(str(value) for value in each.values()) for each in rows)
    mo.md(f"{head}\n--- | --- | ---: | --- | ---\n{body}")
    return (figures,)


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## And on

    Robustness has a price in clean accuracy. How it falls with ε is the quickest look for a network that only hides its
    gradients: at a large ε nothing may survive.
    """)
    return


@app.cell
def _(networks, plt, sparring, test_data):
    def curves():
        figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
        radii = [0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5]
        for name, network in networks.items():
            found = [sparring.evaluate(network, test_data, epsilon=radius, steps=20, restarts=1) for radius in radii]
            low, high = zip(*(each.robust_interval for each in found), strict=True)
            axes.plot(radii, [each.robust_accuracy for each in found], marker=".", label=name)
            axes.fill_between(radii, low, high, alpha=0.2)
        axes.set(xlabel="ε", ylabel="accuracy under PGD-20", ylim=(0, 1))
        axes.set_title(f"{found[0].samples} test images, 95 % intervals", fontsize="medium")
        axes.legend()
        return figure

    curves()
    return


if __name__ == "__main__":
    app.run()
