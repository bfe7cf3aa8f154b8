"""Fuzz targets: functions of bytes in `targets`, driven by atheris (`make fuzz`) and by Hypothesis (`make test`)."""
