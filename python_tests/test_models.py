"""Models against per-step loops, their masks, and gradients that reach every parameter."""

import copy

import pytest
import torch

import irecgan_ext.models.encoder as encoder_module
from irecgan_ext import losses
from irecgan_ext.models import Agent, Discriminator, Encoder, UserModel
from irecgan_ext.models.discriminator import TEMPERATURE
from irecgan_ext.types import BOS, END, PAD, Trajectories

ITEMS, EMBEDDING, HIDDEN, LAYERS = 11, 5, 7, 2
SIZES = (ITEMS, EMBEDDING, HIDDEN, LAYERS)
CELLS = ("gru", "lstm")
REWARDS = ("survival", "binary")


def sessions(binary: bool = False) -> Trajectories:
    """Three sessions of 3, 1 and 2 steps over 11 items; the last is censored, and starts from an item; some slates are short."""
    trajectories = Trajectories(
        start=torch.tensor([BOS, BOS, 6]),
        slates=torch.tensor(
            [
                [[0, 1, 2], [3, 4, 10], [5, 6, PAD]],
                [[7, PAD, PAD], [PAD, PAD, PAD], [PAD, PAD, PAD]],
                [[8, 9, 1], [2, 3, 0], [PAD, PAD, PAD]],
            ]
        ),
        clicks=torch.tensor([[1, 10, END], [END, PAD, PAD], [8, 0, PAD]]),
        rewards=torch.tensor([[1.0, 0.0 if binary else 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]),
        lengths=torch.tensor([3, 1, 2]),
        censored=torch.tensor([False, False, True]),
    )
    trajectories.validate(ITEMS)
    return trajectories


def each_step(trajectories: Trajectories):
    """(session, step, clicks so far with the start symbol, slate without PAD, click, reward) of every counted step."""
    for b in range(len(trajectories)):
        history = [int(trajectories.start[b])]
        for t in range(int(trajectories.lengths[b])):
            slate = [i for i in trajectories.slates[b, t].tolist() if i != PAD]
            click = int(trajectories.clicks[b, t])
            yield b, t, list(history), slate, click, float(trajectories.rewards[b, t])
            history.append(click)


def state_after(encoder: Encoder, history: list[int]) -> torch.Tensor:
    state = encoder.initial_state(1)
    for symbol in history:
        state = encoder.step(state, torch.tensor([symbol]))
    return encoder.output(state)[0]


def row(encoder: Encoder, symbol: int) -> torch.Tensor:
    return encoder.embedding.weight[{END: ITEMS, BOS: ITEMS + 1}.get(symbol, symbol)]


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


BAD_ARGUMENTS = [
    ({"items": 0}, "items must be at least 1, got 0"),
    ({"embedding": 0}, "embedding must be at least 1, got 0"),
    ({"hidden": -1}, "hidden must be at least 1, got -1"),
    ({"layers": 0}, "layers must be at least 1, got 0"),
    ({"cell": "rnn"}, "cell must be 'gru' or 'lstm', got 'rnn'"),
    ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ARGUMENTS)
@pytest.mark.parametrize("model", [UserModel, Agent, Discriminator])
def test_bad_sizes(model, change, message):
    arguments = dict(zip(("items", "embedding", "hidden", "layers"), SIZES))
    with pytest.raises(ValueError, match=message):
        model(**{**arguments, **change})


@pytest.mark.parametrize("model", [UserModel, Discriminator])
def test_bad_reward(model):
    with pytest.raises(ValueError, match="reward must be 'survival' or 'binary', got 'rating'"):
        model(*SIZES, reward="rating")


def test_survival_has_no_reward_logits():
    with pytest.raises(ValueError, match="reward must be 'binary' for reward logits, got 'survival'"):
        UserModel(*SIZES).reward_logits(torch.zeros(1, HIDDEN), torch.tensor([0]))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reward", REWARDS)
def test_user_model_is_the_loop_over_steps(cell, reward):
    model = UserModel(*SIZES, cell=cell, reward=reward)
    trajectories = sessions(reward == "binary")
    click_log_probs, reward_log_probs = model(trajectories)
    expected_clicks, expected_rewards = torch.zeros(3, 3), torch.zeros(3, 3)
    for b, t, history, slate, click, earned in each_step(trajectories):
        state = state_after(model.encoder, history)
        candidates = [*slate, END]
        logits = torch.stack([model.query(state) @ row(model.encoder, c) for c in candidates])
        expected_clicks[b, t] = logits.log_softmax(0)[candidates.index(click)]
        if reward == "binary" and click != END:
            probability = torch.sigmoid(model.reward_query(state) @ row(model.encoder, click))
            expected_rewards[b, t] = (probability if earned else 1 - probability).log()
    torch.testing.assert_close(click_log_probs, expected_clicks)
    if reward == "survival":
        assert reward_log_probs is None
    else:
        torch.testing.assert_close(reward_log_probs, expected_rewards)


def test_click_logits_give_pad_no_probability():
    model = UserModel(*SIZES)
    slates = torch.tensor([[[4, PAD, 2], [PAD, PAD, PAD]]])
    probabilities = model.click_logits(torch.randn(1, 2, HIDDEN), slates).softmax(-1)
    assert probabilities.shape == (1, 2, 4)
    assert probabilities[0, 0, 1] == 0
    assert probabilities[0, 1].tolist() == [0, 0, 0, 1]
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, 2))


def test_item_twice_in_a_slate_counts_twice():
    model = UserModel(*SIZES)
    trajectories = Trajectories(
        start=torch.tensor([BOS]),
        slates=torch.tensor([[[4, 2, 4]]]),
        clicks=torch.tensor([[4]]),
        rewards=torch.ones(1, 1),
        lengths=torch.tensor([1]),
        censored=torch.tensor([True]),
    )
    probabilities = model.click_logits(model.encoder(trajectories.inputs()), trajectories.slates).softmax(-1)
    torch.testing.assert_close(model(trajectories)[0].exp()[0, 0], probabilities[0, 0, [0, 2]].sum())


@pytest.mark.parametrize("cell", CELLS)
def test_agent_is_the_loop_over_steps(cell):
    model = Agent(*SIZES, cell=cell)
    trajectories = sessions()
    expected = torch.zeros(3, 3)
    for b, t, history, _, click, _ in each_step(trajectories):
        if click != END:
            state = state_after(model.encoder, history)
            expected[b, t] = (model.head.weight @ state + model.head.bias).log_softmax(0)[click]
    torch.testing.assert_close(model(trajectories), expected)


def test_agent_without_a_click():
    log_probs = Agent(*SIZES)(sessions().select(torch.tensor([1])))
    assert log_probs.tolist() == [[0.0]]


def test_agent_logits_shape():
    assert Agent(*SIZES).logits(torch.zeros(2, 3, HIDDEN)).shape == (2, 3, ITEMS)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reward", REWARDS)
def test_discriminator_is_the_loop_over_steps(cell, reward):
    model = Discriminator(*SIZES, cell=cell, reward=reward)
    trajectories = sessions(reward == "binary")
    if model.reward_scale is not None:
        torch.nn.init.constant_(model.reward_scale.weight, -0.7)
    totals = [0.0] * 3
    for b, _, history, slate, click, earned in each_step(trajectories):
        query = model.query(state_after(model.encoder, history))
        candidates = torch.stack([row(model.encoder, c) for c in [*slate, END]])
        favourite = torch.softmax(candidates @ query / TEMPERATURE, 0) @ candidates
        factor = 1 - 0.7 * earned if reward == "binary" else 1.0
        totals[b] += factor * (favourite @ row(model.encoder, click))
    expected = torch.stack([total / length for total, length in zip(totals, (3, 1, 2))])
    torch.testing.assert_close(model(trajectories), expected)


@pytest.mark.parametrize("reward", REWARDS)
def test_padding_changes_no_model(reward):
    user, agent = UserModel(*SIZES, reward=reward), Agent(*SIZES)
    discriminator = Discriminator(*SIZES, reward=reward)
    trajectories = sessions()
    longer = Trajectories(
        start=torch.tensor([BOS]),
        slates=torch.arange(10).view(1, 5, 2).repeat(1, 1, 3)[..., :5],
        clicks=torch.tensor([[0, 2, 4, 6, 8]]),
        rewards=torch.ones(1, 5),
        lengths=torch.tensor([5]),
        censored=torch.tensor([True]),
    )
    padded = Trajectories.cat([trajectories, longer])
    assert (padded.horizon, padded.slate_size) == (5, 5)
    torch.testing.assert_close(discriminator(padded)[:3], discriminator(trajectories))
    torch.testing.assert_close(user(padded)[0][:3, :3], user(trajectories)[0])
    torch.testing.assert_close(agent(padded)[:3, :3], agent(trajectories))
    assert bool((user(padded)[0][:3, 3:] == 0).all()) and bool((agent(padded)[:3, 3:] == 0).all())


def test_discriminator_looks_for_the_favourite_click():
    model = Discriminator(*SIZES)
    with torch.no_grad():
        model.encoder.embedding.weight[:ITEMS] = 0
        model.encoder.embedding.weight[range(3), range(3)] = 1.0
        model.query.weight.zero_()
        model.query.bias.copy_(torch.tensor([0.0, 5.0, 0.0, 0.0, 0.0]))
    slates = torch.tensor([[0, 1, 2]]).expand(3, 3)
    scores = model.step_scores(torch.zeros(3, HIDDEN), slates, torch.tensor([0, 1, 2]), torch.zeros(3))
    torch.testing.assert_close(scores, torch.tensor([0.0, 1.0, 0.0]))


def finite_and_everywhere(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert bool((parameter.grad != 0).any()), name


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reward", REWARDS)
def test_gradients_reach_every_parameter(cell, reward):
    trajectories = sessions(reward == "binary")
    counted, clicked = trajectories.step_mask(), trajectories.click_mask()
    user = UserModel(*SIZES, cell=cell, reward=reward)
    losses.user_likelihood(*user(trajectories), counted, clicked).backward()
    finite_and_everywhere(user)
    agent = Agent(*SIZES, cell=cell)
    returns = losses.agent_returns(torch.ones(3, 3), trajectories.rewards, counted)
    losses.agent_policy_gradient(agent(trajectories), returns, clicked).backward()
    finite_and_everywhere(agent)
    discriminator = Discriminator(*SIZES, cell=cell, reward=reward)
    logits = discriminator(trajectories)
    losses.discriminator_loss(logits[:2], logits[2:]).backward()
    finite_and_everywhere(discriminator)


@pytest.mark.parametrize("reward", REWARDS)
def test_rollout_parameters(reward):
    user, agent = UserModel(*SIZES, reward=reward), Agent(*SIZES)
    discriminator = Discriminator(*SIZES, reward=reward)
    query = [(EMBEDDING, HIDDEN), (EMBEDDING,)]
    tails = {
        user: query * (2 if reward == "binary" else 1),
        agent: [(ITEMS, HIDDEN), (ITEMS,)],
        discriminator: query + ([(1, 1), (1,)] if reward == "binary" else []),
    }
    for model, tail in tails.items():
        flat = model.rollout_parameters()
        assert flat[0] is model.encoder.embedding.weight
        assert [id(p) for p in flat[1 : 1 + 4 * LAYERS]] == [id(p) for p in model.encoder.rnn_parameters()]
        assert [tuple(p.shape) for p in flat[1 + 4 * LAYERS :]] == tail
        assert len(flat) == len(list(model.parameters()))


@pytest.mark.parametrize("reward", REWARDS)
def test_expectations_are_the_loop_over_steps(reward):
    model = UserModel(*SIZES, reward=reward, dropout=0.4).eval()
    trajectories = sessions(reward == "binary")
    survival, expected = model.expectations(trajectories)
    assert not survival.requires_grad and not expected.requires_grad
    assert survival.shape == expected.shape == (3, 3)
    for b, t, history, slate, _, _ in each_step(trajectories):
        state = state_after(model.encoder, history)
        query = model.query(state)
        probabilities = torch.stack([query @ row(model.encoder, c) for c in [*slate, END]]).softmax(0)[:-1]
        torch.testing.assert_close(survival[b, t], probabilities.sum().detach())
        if reward == "binary":
            earns = [torch.sigmoid(model.reward_query(state) @ row(model.encoder, c)) for c in slate]
            probabilities = probabilities * torch.stack(earns)
        torch.testing.assert_close(expected[b, t], probabilities.sum().detach())


def test_expectations_with_odds_of_the_callers():
    """Log-odds of -inf take an item out of the slate; equal ones on all items are the same as less of END."""
    model = UserModel(*SIZES).eval()
    trajectories = sessions(False)
    log_odds = torch.zeros(trajectories.slates.shape)
    log_odds[0, 0, 1], log_odds[0, 1] = -torch.inf, 0.7
    survival, _ = model.expectations(trajectories, log_odds)
    plain, _ = model.expectations(trajectories)
    _, _, history, slate, _, _ = next(iter(each_step(trajectories)))
    query = model.query(state_after(model.encoder, history))
    weights = [(query @ row(model.encoder, c)).exp() for c in [*slate, END]]
    rest = sum(weights[:1] + weights[2:-1])
    torch.testing.assert_close(survival[0, 0], (rest / (rest + weights[-1])).detach())
    torch.testing.assert_close(survival[0, 1].logit(), plain[0, 1].logit() + 0.7)
    torch.testing.assert_close(survival[1, 0], plain[1, 0])


def test_expectations_do_not_see_the_click():
    model = UserModel(*SIZES, reward="binary").eval()
    trajectories = sessions(binary=True)
    before = [x[0, 1].item() for x in model.expectations(trajectories)]
    trajectories.clicks[0, 1], trajectories.rewards[0, 1] = 3, 1.0
    assert [x[0, 1].item() for x in model.expectations(trajectories)] == before


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
