"""The encoder: packed, padded and stepwise states, dropout, and products with its embeddings."""

import copy

import pytest
import torch
from small_models import CELLS, EMBEDDING, HIDDEN, ITEMS, LAYERS, SIZES, sessions

import irecgan_ext.models.encoder as encoder_module
from irecgan_ext.models import Agent, Encoder
from irecgan_ext.types import BOS, END, PAD, Trajectories


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("cell", CELLS)
def test_encoder_forward_is_its_steps(cell):
    encoder = Encoder(*SIZES, cell=cell)
    symbols = sessions().inputs()
    states = encoder(symbols)
    assert states.shape == (3, 3, HIDDEN)
    state = encoder.initial_state(3)
    assert state.shape == (2 if cell == "lstm" else 1, LAYERS, 3, HIDDEN)
    for t in range(3):
        state = encoder.step(state, symbols[:, t])
        torch.testing.assert_close(encoder.output(state), states[:, t])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_packed_states_are_the_padded_ones(cell, layers):
    """Without the order of the sessions mattering, and with the same gradients."""
    encoder = Encoder(*SIZES[:3], layers, cell=cell)
    batch = sessions().select(torch.tensor([1, 2, 0, 1, 0]))
    weights = torch.randn(int(batch.lengths.sum()), HIDDEN)
    padded = encoder(batch.inputs())[batch.step_mask()]
    expected = torch.autograd.grad((padded * weights).sum(), list(encoder.parameters()))
    packed = encoder.at_steps(batch)
    torch.testing.assert_close(packed, padded)
    found = torch.autograd.grad((packed * weights).sum(), list(encoder.parameters()))
    torch.testing.assert_close(found, expected)


def test_packed_states_of_no_steps():
    batch = sessions()
    nothing = Trajectories(
        start=batch.start,
        slates=batch.slates[:, :0],
        clicks=batch.clicks[:, :0],
        rewards=batch.rewards[:, :0],
        lengths=torch.zeros(3, dtype=torch.int64),
        censored=torch.ones(3, dtype=torch.bool),
    )
    encoder = Encoder(*SIZES)
    assert encoder.at_steps(nothing).shape == encoder.at_steps(batch.select(torch.arange(0))).shape == (0, HIDDEN)


def test_packed_states_drop_out_as_padded_ones_do():
    """The share of states dropped, scaled up for it, and the share of clicks that END replaces."""
    encoder = Encoder(*SIZES[:3], 1, dropout=0.4)
    batch = sessions().select(torch.tensor([0]).repeat(3000))
    states, kept = encoder.at_steps(batch), encoder.eval().at_steps(batch)
    share = (states == 0).double().mean()
    assert abs(share - 0.4) < 4 * (0.4 * 0.6 / states.numel()) ** 0.5
    first = states.unflatten(0, (3000, 3))[:, 0].mean(0)
    torch.testing.assert_close(first, kept[0], atol=0.05, rtol=0)
    encoder, seen = Encoder(*SIZES[:3], 1, history_dropout=0.6), []
    embed = encoder.embed
    encoder.embed = lambda x: seen.append(x) or embed(x)
    encoder.at_steps(batch)
    hidden = (seen[0] == END).double().sum() / 6000  # of two clicks per session
    assert abs(hidden - 0.6) < 4 * (0.6 * 0.4 / 6000) ** 0.5
    assert int((seen[0] == BOS).sum()) == 3000


@pytest.mark.parametrize("factor", [0, 32])
def test_products_and_mixtures_of_embeddings(monkeypatch, factor):
    """Through the whole table, and through the candidates' rows alone."""
    monkeypatch.setattr(encoder_module, "SMALL_CATALOGUE", factor)
    encoder = Encoder(*SIZES)
    symbols = torch.tensor([[3, 3, END, PAD], [BOS, 0, 10, 1]])
    queries, weights = torch.randn(2, EMBEDDING, requires_grad=True), torch.rand(2, 4, requires_grad=True)
    rows = encoder.embed(symbols)
    products, mixture = (rows * queries[:, None]).sum(-1), (rows * weights[..., None]).sum(1)
    inputs = [queries, weights, encoder.embedding.weight]
    expected = torch.autograd.grad(products.square().sum() + mixture.square().sum(), inputs)
    torch.testing.assert_close(encoder.products(queries, symbols), products)
    torch.testing.assert_close(encoder.mixture(weights, symbols), mixture)
    loss = encoder.products(queries, symbols).square().sum() + encoder.mixture(weights, symbols).square().sum()
    torch.testing.assert_close(torch.autograd.grad(loss, inputs), expected)


@pytest.mark.parametrize("factor", [0, 32])
def test_products_broadcast(monkeypatch, factor):
    monkeypatch.setattr(encoder_module, "SMALL_CATALOGUE", factor)
    encoder, queries = Encoder(*SIZES), torch.randn(3, 1, EMBEDDING)
    symbols = torch.tensor([[[3, END], [BOS, 0], [10, 1], [2, 2]]])
    expected = (queries[:, :, None] * encoder.embed(symbols)).sum(-1)
    torch.testing.assert_close(encoder.products(queries, symbols), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_encoder_embeds_symbols(cell):
    encoder = Encoder(*SIZES, cell=cell)
    rows = encoder.embed(torch.tensor([[3, END], [BOS, 0]]))
    assert torch.equal(rows.flatten(0, 1), encoder.embedding.weight[[3, ITEMS, ITEMS + 1, 0]])


@pytest.mark.parametrize("cell", CELLS)
def test_a_copy_gathers_its_weights(monkeypatch, cell):
    """cuDNN warns, and gathers them at every call, where they lie apart, as those of a copied module do."""
    agent, gathered = Agent(*SIZES, cell=cell), []
    monkeypatch.setattr(torch.nn.RNNBase, "flatten_parameters", lambda self: gathered.append(self))
    copied = copy.deepcopy(agent)
    assert gathered[-1] is copied.encoder.rnn and copied.encoder.rnn is not agent.encoder.rnn
    assert torch.equal(copied(sessions()), agent(sessions()))


@pytest.mark.parametrize(("cell", "gates"), [("gru", 3), ("lstm", 4)])
def test_rnn_parameters_order(cell, gates):
    encoder = Encoder(*SIZES, cell=cell)
    width = gates * HIDDEN
    first = [(width, EMBEDDING), (width, HIDDEN), (width,), (width,)]
    second = [(width, HIDDEN), (width, HIDDEN), (width,), (width,)]
    assert [tuple(p.shape) for p in encoder.rnn_parameters()] == first + second
    assert encoder.rnn_parameters()[7] is encoder.rnn.bias_hh_l1


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_acts_in_training_only(layers):
    encoder = Encoder(ITEMS, EMBEDDING, HIDDEN, layers, dropout=0.5)
    symbols = sessions().inputs()
    assert not torch.equal(encoder(symbols), encoder(symbols))
    encoder.eval()
    assert torch.equal(encoder(symbols), encoder(symbols))


def test_history_dropout_hides_clicks_but_never_the_first_input():
    encoder = Encoder(*SIZES[:3], 1, history_dropout=0.6)
    symbols = torch.arange(8).expand(2000, 8)
    seen = []
    embed = encoder.embed
    encoder.embed = lambda x: seen.append(x) or embed(x)
    encoder(symbols)
    hidden = seen[0] == END
    assert torch.equal(torch.where(hidden, symbols, seen[0]), symbols)
    assert not bool(hidden[:, 0].any())
    share = hidden[:, 1:].double().mean()
    assert abs(share - 0.6) < 4 * (0.6 * 0.4 / hidden[:, 1:].numel()) ** 0.5
    encoder.eval()
    encoder(symbols)
    assert torch.equal(seen[1], symbols)


def test_history_dropout_leaves_evaluation_alone():
    encoder = Encoder(*SIZES, history_dropout=0.9)
    symbols = sessions().inputs()
    assert not torch.equal(encoder(symbols.repeat(20, 1)), encoder(symbols.repeat(20, 1)))
    encoder.eval()
    states = encoder(symbols)
    encoder.history_dropout = 0.0
    assert torch.equal(encoder.train()(symbols), states)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_bad_history_dropout(share):
    with pytest.raises(ValueError, match=rf"history_dropout must be in \[0, 1\), got {share}"):
        Agent(*SIZES, history_dropout=share)


def test_disable_dropout_keeps_history_dropout():
    encoder = Encoder(*SIZES, dropout=0.5, history_dropout=0.9)
    encoder.disable_dropout()
    encoder.train()
    one_input = torch.tensor([[BOS]])
    assert torch.equal(encoder(one_input), encoder(one_input))
    many = torch.arange(8)[None]
    assert not torch.equal(encoder(many), encoder(many))
    encoder.history_dropout = 0.0
    states = encoder(many)
    assert torch.equal(states, encoder(many))
    torch.testing.assert_close(encoder.eval()(many), states)


def test_embeddings_start_at_the_given_spread():
    for std in (0.1, 0.7):
        weight = Encoder(500, 40, 3, 1, embedding_std=std).embedding.weight
        assert weight.std().item() == pytest.approx(std, rel=0.05)
