"""User model, agent and discriminator of IRecGAN, each with its own embeddings and recurrent state over clicks."""

from irecgan_ext.models.agent import Agent
from irecgan_ext.models.discriminator import Discriminator
from irecgan_ext.models.encoder import Encoder
from irecgan_ext.models.user_model import UserModel

__all__ = ["Agent", "Discriminator", "Encoder", "UserModel"]
