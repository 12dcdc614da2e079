#include "budget.h"

PAC_THREAD_LOCAL PAC_TLS(int) pac_budget_left = PAC_BUDGET_UNLIMITED;
