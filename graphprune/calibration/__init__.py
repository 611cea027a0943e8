"""Text in, statistics out: what the network carries when it reads."""

from graphprune.calibration.forward import calibrate as calibrate
