"""Units: eV, A, fs, K inside; GPa only for people. Stress has ASE's sign: tensile positive."""

GPA = 1 / 160.21766208  # eV/A^3 per GPa: ``pressure_in_GPa * GPA`` is eV/A^3
BOLTZMANN = 8.617330337217213e-05  # eV/K, as in ase.units.kB
FEMTOSECOND = 0.09822694788464063  # A sqrt(amu/eV), as in ase.units.fs
