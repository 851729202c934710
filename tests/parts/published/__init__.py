"""Configs of popular models as they were published, with fewer and narrower layers."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.published import gemmas, gpt_oss, llamas, qwens

POPULAR: dict[str, Config] = llamas.CONFIGS | qwens.CONFIGS | gemmas.CONFIGS | gpt_oss.CONFIGS
