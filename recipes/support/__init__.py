"""What the scripts of this folder share: data, flags, reports and figures."""
