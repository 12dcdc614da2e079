#include "budget.h"

PAC_THREAD_LOCAL int pac_budget_left = PAC_BUDGET_UNLIMITED;
