"""The same measurements of other libraries. These files import neither Keras nor sota_dqn: any interpreter may do."""

import sys

# stable-baselines3's logger imports TensorFlow where that is installed, and torch crashes beside it.
sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
