"""Models against per-step loops, their masks, and gradients that reach every parameter."""

import pytest
import torch
from small_models import CELLS, EMBEDDING, HIDDEN, ITEMS, LAYERS, SIZES, sessions

from irecgan_ext import losses
from irecgan_ext.models import Agent, Discriminator, Encoder, UserModel
from irecgan_ext.models.discriminator import TEMPERATURE
from irecgan_ext.types import BOS, END, PAD, Trajectories

REWARDS = ("survival", "binary")


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
