"""User model, agent, discriminator and critic, each with its own embeddings and recurrent state over clicks."""

from irecgan_ext.models.agent import Agent
from irecgan_ext.models.critic import Critic
from irecgan_ext.models.discriminator import Discriminator
from irecgan_ext.models.encoder import Encoder
from irecgan_ext.models.user_model import UserModel

__all__ = ["Agent", "Critic", "Discriminator", "Encoder", "UserModel"]
