"""The entry point: composes the configuration by Hydra and runs it."""

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


def main(config_dir: Path) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"
    hydra.main(version_base="1.3", config_path=str(config_dir), config_name="config")(job)()


def job(config: DictConfig) -> float:
    from newton_krylov.experiment import Job, run_experiment

    hydra_config = HydraConfig.get()
    plain: Any = OmegaConf.to_container(config, resolve=True)
    record = run_experiment(
        plain,
        Job(
            Path(hydra_config.runtime.output_dir),
            list(hydra_config.overrides.task),
            Path(__file__).parent,
        ),
    )
    return 0.0
