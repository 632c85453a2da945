"""Problems to optimize: functions, data sets and networks. They do not depend on optimizers."""
